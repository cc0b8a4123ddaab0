"""Jobs: submitted by pages and the command line, run by one detached worker.

    submit, launch, store     no torch: what pages and the command line import
    driver, check, cluster, tasks, shards     in the worker and its device workers
"""
