"""The folder of a run: what is written where, by whom, and how it is read again."""
