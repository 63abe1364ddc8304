"""A sizing tool of your own. Take `config` as the `config.json` of a model like Llama, read with `json.load`.

Keys that you need: hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
head_dim (hidden_size / num_attention_heads where it is missing), vocab_size, tie_word_embeddings (False where missing).
"""


def parameters(config: dict) -> int:
    """Parameters: embedding, of each layer the four matrices of attention, the three of the MLP and two norms, a last
    norm, and an output head unless it is tied to the embedding. There are no biases."""
    raise NotImplementedError


def kv_cache_bytes(config: dict, batch: int, tokens: int, bytes_per_element: float = 2) -> float:
    """Bytes of the key-value cache of so many sequences of so many tokens each."""
    raise NotImplementedError


def state_bytes(count: float, zero: int = 0, ranks: int = 1) -> float:
    """Bytes that each of the ranks keeps of so many parameters, trained with AdamW in BF16 mixed precision: 2 for the
    weight, 2 for the gradient, 12 for master copy and moments. `zero` is the stage of ZeRO, 0 to 3."""
    raise NotImplementedError


def training_days(count: float, tokens: float, cards: int, peak_flops_per_second: float, mfu: float) -> float:
    """Days of training by 6ND at that share of the peak of all cards."""
    raise NotImplementedError


def tokens_per_second_of_one_user(
    count: float, bandwidth_bytes_per_second: float, bits_per_weight: float = 16
) -> float:
    """The most that one sequence can get: each token reads every weight once, and nothing else."""
    raise NotImplementedError


def most_sequences(config: dict, memory_bytes: float, tokens: int, share: float = 0.9, page: int = 16) -> int:
    """Sequences of so many tokens that fit beside BF16 weights into that share of the memory, the cache of each in
    whole pages of `page` tokens; 0 if not even the weights do."""
    raise NotImplementedError


def dollars_per_million_tokens(dollars_per_card_hour: float, cards: int, tokens_per_second: float) -> float:
    """What a million tokens cost if the cards are rented for as long as they take."""
    raise NotImplementedError
