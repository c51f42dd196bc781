"""The loss as a function of the parameters, and its minimum."""
