"""Real work for the queue: ``python -m final.examples.webhooks``, ``python -m
final.examples.emails``, ``python -m final.examples.thumbnails``; each takes a file to keep jobs in.
"""
