"""The same blocks on a Dask cluster: processes of this machine (`--workers`), or other machines (`--cluster`).

Dask schedules, and sends the block of a lost worker to another; here stand what a worker does with a block (`job`), how
workers are started or found (`crew`), and how blocks are sent and their parts taken back (`dispatch`).
"""
