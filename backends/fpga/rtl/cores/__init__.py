"""The streaming cores: stages chained into one pipeline."""
