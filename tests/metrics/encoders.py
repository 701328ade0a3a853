"""A tiny random sentence-transformers folder, made as users make theirs."""

WORDS = "good bad nice awful film book a the it was you are fine fool friend not".split()  # noqa: SIM905


def save_encoder(folder, seed=0):
    """A one-layer BERT over whole words with mean pooling, 16 numbers to a text."""
    import sentence_transformers
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, **{f"{name}_token": token for name, token in names}
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    sentence_transformers.SentenceTransformer(str(folder / "bert")).save_pretrained(
        str(folder / "encoder")
    )
    return folder / "encoder"
