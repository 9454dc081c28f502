//go:build !linux

package database

import (
	"testing"
	"time"
)

const hostComparable = false

func lutimes(string, time.Time) error { return nil }

func (p *pair) disk(*testing.T) snapshot { return nil }
