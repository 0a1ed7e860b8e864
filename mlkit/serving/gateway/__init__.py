"""gRPC in front of an app: the Open Inference Protocol, passed on to its HTTP routes."""
