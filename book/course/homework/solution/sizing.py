"""The reference solution; the template's docstrings say what each function does."""


def _head_dim(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def parameters(config: dict) -> int:
    h, f = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * _head_dim(config)
    keys = config["num_key_value_heads"] * _head_dim(config)
    layer = 2 * h * queries + 2 * h * keys + 3 * h * f + 2 * h
    ends = config["vocab_size"] * h * (1 if config.get("tie_word_embeddings") else 2) + h
    return config["num_hidden_layers"] * layer + ends


def kv_cache_bytes(config: dict, batch: int, tokens: int, bytes_per_element: float = 2) -> float:
    per_token = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * _head_dim(config)
    return batch * tokens * per_token * bytes_per_element


def state_bytes(count: float, zero: int = 0, ranks: int = 1) -> float:
    weight, gradient, optimizer = 2.0, 2.0, 12.0
    return count * (
        weight / (ranks if zero >= 3 else 1)
        + gradient / (ranks if zero >= 2 else 1)
        + optimizer / (ranks if zero else 1)
    )


def training_days(count: float, tokens: float, cards: int, peak_flops_per_second: float, mfu: float) -> float:
    return 6 * count * tokens / (cards * mfu * peak_flops_per_second) / 86400


def tokens_per_second_of_one_user(
    count: float, bandwidth_bytes_per_second: float, bits_per_weight: float = 16
) -> float:
    return bandwidth_bytes_per_second / (count * bits_per_weight / 8)


def most_sequences(config: dict, memory_bytes: float, tokens: int, share: float = 0.9, page: int = 16) -> int:
    pages = -(-tokens // page)
    free = share * memory_bytes - 2 * parameters(config)
    return max(0, int(free // kv_cache_bytes(config, 1, pages * page)))


def dollars_per_million_tokens(dollars_per_card_hour: float, cards: int, tokens_per_second: float) -> float:
    return dollars_per_card_hour * cards * 1e6 / tokens_per_second / 3600
