package buildkit

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/moby/buildkit/client/connhelper"
)

// throughProgram gives the dialer of a scheme that runs through a program of this machine.
func throughProgram(address string) (func(context.Context, string) (net.Conn, error), error) {
	helper, err := connhelper.GetConnectionHelper(address)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := helper.ContextDialer(ctx, addr)
		if err != nil {
			return nil, err
		}
		return &programConn{conn}, nil
	}, nil
}

// programConn is a connection through a program. If the program is gone before anything
// has been written, the error is what it said at its end, instead of a broken pipe.
type programConn struct{ net.Conn }

func (c *programConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		if _, last := c.Conn.Read(make([]byte, 1)); last != nil {
			err = last
		}
	}
	return n, err
}
