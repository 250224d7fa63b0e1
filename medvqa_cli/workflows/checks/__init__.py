"""What `medvqa sanity-check` looks at, step by step; `workflows.sanity` puts it together."""
