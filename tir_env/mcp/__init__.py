"""The toolbox, the metrics and a trained agent for assistants that speak the Model Context Protocol: `python -m tir_env.mcp`."""
