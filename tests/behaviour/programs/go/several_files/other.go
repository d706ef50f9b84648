//go:build ignore || (windows && !linux)

package other
