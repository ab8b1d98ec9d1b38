"""Servers that speak the OpenAI protocol: requests, replicas, text and ids."""
