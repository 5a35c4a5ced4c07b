"""One module for each seam of Chainlit: which one, why there, and what to wrap.

Only these modules name Chainlit, and only inside functions: importing Chainlit takes seconds
and writes files, and it is the application that decides when.
"""
