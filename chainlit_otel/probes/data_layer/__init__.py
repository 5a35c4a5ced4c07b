"""The data layer: how it is found, its operations, and the feedback that it stores."""
