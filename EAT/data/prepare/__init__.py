"""From data sets as they are downloaded to manifests, labels, sampling weights and normalisation constants.

``python -m EAT.prepare audioset|esc50|speech_commands|folder --help`` tells what each is given.
"""
