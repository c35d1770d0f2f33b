"""From a few seeds to a training set: concepts, answers, what is kept of them, and how they are divided."""
