"""Many runs over one model: comparison, sensitivity, mixed precision, portability."""
