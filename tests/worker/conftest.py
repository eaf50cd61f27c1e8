from in_process_workers import workers_in_process

__all__ = ["workers_in_process"]
