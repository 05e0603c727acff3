"""runner=serve: an accelerated policy behind a websocket, for robots and their clients."""
