"""A door between a program and a server, which a test can close or wall up: for what happens when a server is lost."""

import socket
import threading


class Gateway:
    """Passes connections to `target` on this machine. `state`: open, shut (refused), or silent (taken, never answered)."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.state = "open"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._held: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._held.append(near)
            if self.state == "shut":
                near.close()
            elif self.state == "open":
                far = socket.create_connection(("127.0.0.1", self.target))
                self._held.append(far)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        """Cut all that passes, and take nothing more."""
        for line in (self._listener, *self._held):
            line.close()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return
