"""What happened, in the words of the Open Cybersecurity Schema Framework (OCSF).

Source: OCSF schema 1.5.0, https://schema.ocsf.io/1.5.0: classes, objects and profiles by the names
that stand there.
"""
