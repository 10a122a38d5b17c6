"""The contract every part of claudedo shares, and the person's side of it.

Holds the model, the protocol, the client and the commands. Importing the package costs nothing:
only the commands need more than the standard library, and they import it when they need it.
"""
