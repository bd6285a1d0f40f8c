"""The vision-language agent of TIR-Agent: it looks, calls one tool, looks at the result, and goes on. SFT first, then GRPO."""
