package parts_test

import "testing"

func TestJoint(t *testing.T) {}
