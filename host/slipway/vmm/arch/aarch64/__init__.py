"""aarch64: layout of a guest's memory, its device tree, its GIC, its first instruction."""
