"""Fields that a resumed run may change, because they do not change what is learned."""

from __future__ import annotations

_FREE_FIELDS_BY_REASON = {
    "where it runs": ("accelerate", "machines", "data_root", "output_dir", "ddp_timeout"),
    "what was allowed": ("accept_license", "allow_leaks"),
    "speed and memory": (
        *("attn_implementation", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"),
        "dataloader_prefetch_factor",
    ),
    "when it validates and saves": ("eval_steps", "save_steps", "save_total_limit"),
    "logs": (
        *("disable_tqdm", "log_completions", "num_completions_to_print", "log_level"),
        *("log_level_replica", "log_on_each_node", "logging_dir", "logging_first_step"),
        *("logging_steps", "logging_strategy", "project", "report_to", "run_name"),
        "trackio_space_id",
    ),
    "upload": (
        *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy"),
        "hub_token",
    ),
    "the engine that generates": (
        *("vllm_enable_sleep_mode", "vllm_gpu_memory_utilization", "vllm_group_port", "vllm_mode"),
        *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"),
        "vllm_tensor_parallel_size",
    ),
}
FREE_FIELDS = frozenset(name for names in _FREE_FIELDS_BY_REASON.values() for name in names)
