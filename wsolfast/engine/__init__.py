"""Training, evaluation and what they leave behind: the rooms below it meet here."""
