"""cuDNN's graph API without torch: graphs described here, built in workers, loaded and executed.

`description` says what a graph is; `plan` builds one execution plan of it as bytes and loads such
bytes; `tactic` is what the tactics ``*.cudnn.*`` share.
"""
