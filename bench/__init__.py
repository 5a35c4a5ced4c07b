"""What observing Chainlit costs: `python -m bench`. Not part of the package."""
