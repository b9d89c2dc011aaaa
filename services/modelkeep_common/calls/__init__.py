"""What happens around every call; chain.py tells it in order."""

from .call import Call, current_call

__all__ = ["Call", "current_call"]
