package parts

var Joint = 0
