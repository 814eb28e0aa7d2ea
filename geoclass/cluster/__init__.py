"""The same work on a Dask cluster: processes of this machine (`--workers`), or other machines (`--cluster`).

Dask schedules, and sends the task of a lost worker to another. Here stand what any worker does (`worker`), how workers are
started or found (`crew`), and how tasks are sent and answers taken back (`dispatch`); for blocks of scenes what a worker
does (`block`) and the driver (`classifying`), for pictures of labelled tiles both (`pictures`).
"""
