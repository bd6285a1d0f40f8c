"""The policy that is a vision-language model: its demonstrations, its fine-tuning, its rollouts."""
