"""The alerts over a past that is given: which would have fired, when and for how long."""
