"""From a budget to codecs: what each tensor's errors cost the model, and which codec spec a byte is best spent on."""
