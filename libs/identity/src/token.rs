//! Bearer tokens that cannot be guessed.

/// Makes a token that nobody can guess: 256 random bits of the operating system, as 64 hex digits. Fails only when the
/// system has no random numbers.
pub fn random_token() -> std::io::Result<String> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(margo::Digest::from_sha256(bits).hex())
}
