"""What the numbers say: audits, differences, sensitivity."""
