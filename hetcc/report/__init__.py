"""What people and programs read about a compile: summaries, explanations, exports."""
