"""Where files of a store lie: a folder, a bucket, a web server. Bytes only: what they mean is for `store` to know.

`protocol` has the few operations that a storage needs; `local`, `objects` and `web` are the storages, `locations`
chooses one. `ranges` reads parts of remote files, `retrying` asks again, `listing` is what a web server cannot list.
"""
