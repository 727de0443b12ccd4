"""What of training is no framework's: recipe, images, teacher, loss, schedule, loop and gate."""
