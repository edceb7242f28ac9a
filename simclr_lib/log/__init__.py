"""The log: notebooks executed and filed, and what each of them shows."""
