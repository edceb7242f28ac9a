"""What was learned: embed once, score, classify, read the colours and the health; tables come back."""
