"""The light agent of Restore-R1: a frozen CLIP image encoder and two small MLPs, trained by PPO or GRPO."""
