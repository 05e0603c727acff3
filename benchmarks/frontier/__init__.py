"""The study of docs/results/frontier.md: success against measured time."""
