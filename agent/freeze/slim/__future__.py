"""The one feature that the sources ask for; what it does, the compiler has done."""

annotations = None
