"""The language of manifests: fields, values and problems, whatever the kind."""
