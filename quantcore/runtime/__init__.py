"""What every study stands on: finished work that is kept, files, progress, processes."""
