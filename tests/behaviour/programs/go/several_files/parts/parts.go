package parts

import "example.com/several/parts/signs"

var Joint = signs.Comma + " "
