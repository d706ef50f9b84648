"""How many examples a property gets that is dearer, or one of many, compared to the others."""

from hypothesis import settings


def share(part: int) -> settings:
    """Settings for one of ``part`` examples of the profile that conftest has loaded."""
    examples: int = settings().max_examples
    return settings(max_examples=max(1, examples // part))
