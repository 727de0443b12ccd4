"""The page of every study, from the JSON that the study wrote."""
