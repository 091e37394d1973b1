"""Axis flow: what each axis of each value means, and what must follow when the token axis gets shorter."""
