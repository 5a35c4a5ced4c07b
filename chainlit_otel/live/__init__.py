"""The live page: history in fixed memory, what goes on now, and the page that shows both."""
